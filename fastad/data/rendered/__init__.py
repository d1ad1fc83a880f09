"""Rendered products with and without defects: what `fastad demo` trains on."""
