"""Work shared by several processes, on one machine or many, that ``torchrun`` started.

`ranks` says which of the processes this is. `claims` lets one of them alone take a piece of work,
and each of them go through many. `parts` shares a long list between them. `memory` says how much
memory that took.
"""

from fastad.distributed.claims import claim_each, claimed
from fastad.distributed.memory import peak_memory
from fastad.distributed.parts import Parts, request
from fastad.distributed.ranks import Rank, RankError, lost_ranks, meet, part, this_rank

__all__ = [
    "Parts",
    "Rank",
    "RankError",
    "claim_each",
    "claimed",
    "lost_ranks",
    "meet",
    "part",
    "peak_memory",
    "request",
    "this_rank",
]
