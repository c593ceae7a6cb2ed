"""The whole pipeline in one process on one virtual clock: every delay and every fault is drawn from one seed."""
