"""
Finding records of a sheet: what the parameters of a list ask for.

``query`` reads them, ``comparisons`` has the operators, and ``fields`` knows which names the sheet declares.
"""
