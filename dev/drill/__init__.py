"""Fault drill: jobs are killed, stopped and starved at random moments and must end as undisturbed ones do."""
