#!/bin/bash
# A run as a job of a Ray cluster, whose trials run on it as well: examples/engines/ray_job.sh
# The folder has to be one that all machines of the cluster share.
exec ray job submit --working-dir . -- \
    plop run recipe.yaml --folder "${SHARED:?Name a folder that all machines share.}/plop-run" \
    --set runner.kind=ray
