"""`make run`: the whole stack as plain processes, without Docker or root. No part of a replica.

processes.py starts, stops and watches one of them; stack.py says what there is; __main__.py is the story.
"""
