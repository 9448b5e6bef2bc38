# launch/pod.sh xpk run paper-3b llasa_3b --topology v5p:4x4x4 --slices 2 --flags
xpk workload create --project my-project --zone us-east5-b --cluster pods \
  --workload paper-3b \
  --docker-name llasa \
  --docker-image us-docker.pkg.dev/my-project/llasa/llasa:1 \
  --tpu-type v5p-128 \
  --num-slices 2 \
  --storage llasa \
  --env 'LIBTPU_INIT_ARGS=--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true' \
  --termination-grace-period-seconds 120 \
  --max-restarts 50 \
  --restart-on-exit-codes 75 \
  --command 'llasa train llasa_3b --tokens gs://my-bucket/tokens --model /bucket/model --out /bucket/runs/paper-3b --set train.checkpoints=gs://my-bucket/runs/paper-3b/checkpoints --set train.mesh.data=2 --set train.mesh.fsdp=-1'
xpk workload list --project my-project --zone us-east5-b --cluster pods --wait-for-job-completion paper-3b
