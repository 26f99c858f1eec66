"""How the tables of all drivers of KinematicDriver-v0 say how far off the path they were."""

from steerlab.envs.kinematic_driver.record import START_SECONDS

#: P95 of the offset: all steps, the start, the steady state; and the front bumper's steady state.
CTE_KEYS = ("cte_p95", "cte_p95_start", "cte_p95_steady", "front_p95_steady")
CTE_CAPTION = (
    "CTE: offset from the path at the rear axle, percentiles over all steps of all episodes; start: the "
    f"first {START_SECONDS:g} s, from an offset that is drawn; steady: what follows; steps lost to a "
    "violation count as infinitely far off"
)
