"""Signs runs and seals secrets: keys and their files, signatures, sealed values, and the keys that an admin trusts.

PyNaCl is imported here only, and only where there is a key: unsigned runs without secrets pay nothing for it.
"""
