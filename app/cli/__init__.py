"""
The command ``ferry``: ``main`` puts its parts together.

``pushes`` and ``explain`` are ``ferry push``, ``checks`` doctor, verify and page, ``repository``,
``reconcile`` and ``branches`` what reads and joins the data repository, ``tokens`` makes tokens.
"""
