"""The comparisons, one stage of the work per file.

Every comparison first checks that both sides compute the same result, then times them. Peers process one fact at a
time, or batches whose cost is proportional to the number of facts. Where many facts would take them minutes, they are
timed on fewer facts and the time is scaled up; the file of the comparison says so.
"""
