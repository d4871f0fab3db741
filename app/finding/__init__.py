"""
Finding records of a sheet: what the parameters of a list ask for.

``query`` reads them, ``comparisons`` has the operators, ``search`` finds words in all texts, and ``fields``
knows which names the sheet declares.
"""
