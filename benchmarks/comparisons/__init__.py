"""What is compared with what, one stage of the work a file.

Every comparison first asserts that both sides compute the same, then takes times. Peers work fact by fact, or in
batches whose cost grows with the number of facts alone: where many facts would take them minutes, they are timed on
some of them and the time is scaled up; each file says where.
"""
