"""The judgement: scores with intervals, comparisons on the same photos, audits, drift, and the gate before a release.

Belongs here: everything that decides whether a model or a number may be trusted. Does not belong here: answering
(`predict`), pages and pictures (`report`, `plots`).

Order of reading: `scores`, `compare`, `audits`, `evaluate`, `gate`.
"""
