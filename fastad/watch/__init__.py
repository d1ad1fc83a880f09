"""A detector beside a line: new images of a folder, or frames of a camera, each inspected once.

Open `watcher` first: it is the loop. `journal` is what survives a crash.
"""
