"""Serving: one HTTP API in front of whatever answers.

Belongs here: engines behind one protocol (`engine`), the way of a photo through them (`detector`), the HTTP
API (`gateway`), the model being served and its exchange (`holder`, `weights`), the client. Does not belong here:
generation itself (`predict`), prompts and resizes (`prompts`), reading answers (`answers`): serving calls the
functions that training and evaluation call.

Nothing here is imported by the rest of the package except by two commands, and only when they run: FastAPI,
Prometheus and torch stay out of everything else.
"""
