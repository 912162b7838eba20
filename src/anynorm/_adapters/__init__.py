"""Namespaces that make libraries follow the array API standard as far as anynorm calls it."""
