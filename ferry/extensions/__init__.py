"""
Extensions that come with Ferry, each for ``CFP_API_EXTENSIONS``. They use the package ``ferry`` alone.
"""
