"""A detector as a service: a store of what it saw, one queue to it, an API and a page.

It needs the packages of ``pip install "fastad[serve]"``. `fastad.commands.serve` starts it.
"""
