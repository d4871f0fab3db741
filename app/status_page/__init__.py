"""
Pages for people: the operators' status page.

Read ``status`` first, which has the endpoints. ``facts`` reads what the page shows, ``sessions`` controls who
may see it, ``charts`` and ``words`` draw and word it. Each page is complete as the server sends it;
``static/status.js`` only refreshes it.
"""
