"""
Pages for people: what the data repository holds, and what became of each change. They read only.

Read ``pages`` first, which has the endpoints; ``signing_in`` lets a browser in where reads need a token. Each
page shows what an address of the API answers, read by the API's own functions, and the ``curl`` line that
asks for the same (``curl``). ``tables`` lays out a sheet, ``values`` words what a record holds, and
``differences`` what a commit changed in it. The pages work without JavaScript, and have none.
"""
