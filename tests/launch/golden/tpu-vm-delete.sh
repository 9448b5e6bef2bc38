# launch/pod.sh tpu-vm delete paper-1b
gcloud compute tpus queued-resources delete paper-1b --project my-project --zone us-east5-b --force --quiet
