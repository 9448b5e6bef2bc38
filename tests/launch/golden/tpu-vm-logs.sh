# launch/pod.sh tpu-vm logs paper-1b
gcloud compute tpus queued-resources ssh paper-1b --project my-project --zone us-east5-b --node=all --worker=all \
  --command="sudo docker logs --tail 100 paper-1b 2>&1 | sed \"s/^/\$(hostname): /\""
