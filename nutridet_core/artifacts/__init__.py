"""What lies on disk: sealed folders, where they are, who may write them, and what comes from the hub.

Belongs here: manifests, hashes, locks, free space, downloads. Does not belong here: what an artefact means
(`pipeline`).
"""
