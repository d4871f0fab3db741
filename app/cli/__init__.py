"""
The command ``ferry``: ``main`` collects the subcommands.

``pushes`` and ``explain`` hold ``ferry push``; ``checks`` holds doctor, verify and page; ``repository``,
``reconcile`` and ``branches`` hold what reads or reconciles the data repository; ``tokens`` makes tokens;
``promote`` makes a replica the primary; ``processes`` runs a worker or beat.
"""
