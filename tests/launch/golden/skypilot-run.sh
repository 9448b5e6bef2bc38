# launch/pod.sh skypilot run paper-1b llasa_1b --topology v6e:4x4 --spot --flags
task="$(mktemp --suffix .yaml)"
trap 'rm -f "$task"' EXIT
cat >"$task" <<'EOF'
name: paper-1b
workdir: .
resources:
  infra: gcp
  accelerators: tpu-v6e-16
  accelerator_args:
    runtime_version: v2-alpha-tpuv6e
  use_spot: true
  job_recovery:
    max_restarts_on_errors: 3
    recover_on_exit_codes: [75]
file_mounts:
  /bucket:
    source: gs://my-bucket
    mode: MOUNT
envs:
  LIBTPU_INIT_ARGS: "--xla_tpu_scoped_vmem_limit_kib=98304 --xla_tpu_enable_sparse_core_collective_offload_all_gather=true --xla_tpu_enable_sparse_core_collective_offload_reduce_scatter=true --xla_tpu_enable_sparse_core_collective_offload_all_reduce=true --xla_tpu_use_tc_device_shape_on_sc=true --xla_sc_disable_megacore_partitioning=true --xla_sc_enable_instruction_fusion=false --xla_sc_disjoint_spmem=false --xla_tpu_enable_async_collective_fusion_fuse_all_gather=false --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=false --xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter=false --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true"
# Both run on every host of the slice; a TPU VM's own Python is too old.
setup: |
  python3 -m pip install --user uv
  python3 -m uv venv --allow-existing --python 3.12 ~/llasa
  python3 -m uv pip install --python ~/llasa -r requirements.txt -r requirements-tpu.txt
  python3 -m uv pip install --python ~/llasa --no-deps -r requirements-nodeps.txt -e .
run: |
  exec ~/llasa/bin/llasa train llasa_1b --tokens gs://my-bucket/tokens --model /bucket/model --out /bucket/runs/paper-1b --set train.checkpoints=gs://my-bucket/runs/paper-1b/checkpoints --set train.mesh.data=1 --set train.mesh.fsdp=-1
EOF
sky jobs launch --yes --name paper-1b "$task"
