"""What is kept of normal images to compare patches with: coresets of their features."""

from fastad.models.memory.levels import LevelMemories
from fastad.models.memory.memory import Memory
from fastad.models.memory.nearest import nearest

__all__ = ["LevelMemories", "Memory", "nearest"]
