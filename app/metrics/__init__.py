"""
What the API's processes measure.

``metering`` counts what requests do, ``tally`` adds up the counts of all processes, and ``certificates``
reads when certificates end. The endpoint that shows them is ``ferry.app.api.metrics``.
"""
