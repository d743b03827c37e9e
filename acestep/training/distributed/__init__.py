"""Device placement, the processes of a run, and how they are launched."""
