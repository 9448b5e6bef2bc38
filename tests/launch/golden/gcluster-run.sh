# launch/pod.sh gcluster run paper-1b llasa_1b --topology v6e:4x4 --flags
gcluster job submit --project my-project --location us-east5-b --cluster pods \
  --name paper-1b \
  --image us-docker.pkg.dev/my-project/llasa/llasa:1 \
  --compute-type ct6e-standard-4t \
  --topology 4x4 \
  --num-slices 1 \
  --mount gs://my-bucket:/bucket:rw \
  --service-account llasa \
  --grace-period 120s \
  --restarts 50 \
  --restart-on-exit-codes 75 \
  --await-job-completion \
  --command 'env '"'"'LIBTPU_INIT_ARGS=--xla_tpu_scoped_vmem_limit_kib=98304 --xla_tpu_enable_sparse_core_collective_offload_all_gather=true --xla_tpu_enable_sparse_core_collective_offload_reduce_scatter=true --xla_tpu_enable_sparse_core_collective_offload_all_reduce=true --xla_tpu_use_tc_device_shape_on_sc=true --xla_sc_disable_megacore_partitioning=true --xla_sc_enable_instruction_fusion=false --xla_sc_disjoint_spmem=false --xla_tpu_enable_async_collective_fusion_fuse_all_gather=false --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=false --xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter=false --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true'"'"' llasa train llasa_1b --tokens gs://my-bucket/tokens --model /bucket/model --out /bucket/runs/paper-1b --set train.checkpoints=gs://my-bucket/runs/paper-1b/checkpoints --set train.mesh.data=1 --set train.mesh.fsdp=-1'
