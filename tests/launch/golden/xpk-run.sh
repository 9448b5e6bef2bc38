# launch/pod.sh xpk run paper-1b llasa_1b --topology v6e:4x4 --set train.accumulate=2
xpk workload create --project my-project --zone us-east5-b --cluster pods \
  --workload paper-1b \
  --docker-name llasa \
  --docker-image us-docker.pkg.dev/my-project/llasa/llasa:1 \
  --tpu-type v6e-16 \
  --num-slices 1 \
  --storage llasa \
  --termination-grace-period-seconds 120 \
  --max-restarts 50 \
  --restart-on-exit-codes 75 \
  --command 'llasa train llasa_1b --tokens gs://my-bucket/tokens --model /bucket/model --out /bucket/runs/paper-1b --set train.checkpoints=gs://my-bucket/runs/paper-1b/checkpoints --set train.mesh.data=1 --set train.mesh.fsdp=-1 --set train.accumulate=2'
xpk workload list --project my-project --zone us-east5-b --cluster pods --wait-for-job-completion paper-1b
