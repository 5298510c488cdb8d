"""A made-up world in which the real controller, plan and policies run: work, bounds, resource managers, a scheduler."""
