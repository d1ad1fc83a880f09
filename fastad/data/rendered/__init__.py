"""Rendered products, with and without defects, for `fastad demo` and tests. Open `products`."""
