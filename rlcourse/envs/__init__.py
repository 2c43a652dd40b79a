"""Environments of the course."""

from rlcourse.envs.tables import TabularMDP, cliff, helpdesk

__all__ = ["TabularMDP", "cliff", "helpdesk"]
