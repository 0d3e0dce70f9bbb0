"""The answer cache: what makes two calls the same, which answers may be given twice, and how they are kept.

Nothing here has I/O, a clock or dice. The stores are in `stores`, what brings both together is `extproc.answers`.
"""
