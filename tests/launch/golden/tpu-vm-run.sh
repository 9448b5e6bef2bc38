# launch/pod.sh tpu-vm run paper-1b llasa_1b --topology v6e:4x4 --flags
state() { gcloud compute tpus queued-resources describe paper-1b --project my-project --zone us-east5-b --format='value(state.state)' 2>/dev/null || true; }
case "$(state)" in
FAILED | SUSPENDED) gcloud compute tpus queued-resources delete paper-1b --project my-project --zone us-east5-b --force --quiet ;;
esac
[ -n "$(state)" ] || gcloud compute tpus queued-resources create paper-1b --project my-project --zone us-east5-b \
  --node-id paper-1b \
  --accelerator-type v6e-16 --runtime-version v2-alpha-tpuv6e
until [ "$(state)" = ACTIVE ]; do
  case "$(state)" in FAILED | SUSPENDED) exit 1 ;; esac
  sleep 30
done
# On every host: files are copied down, the container runs (or goes on), worker 0 copies up.
worker="$(cat <<'EOF'
set -eu
for folder in model runs/paper-1b; do
  mkdir -p ~/llasa/$folder
  gcloud storage rsync --recursive --exclude='checkpoints/.*' gs://my-bucket/$folder ~/llasa/$folder || true
done
gcloud auth configure-docker us-docker.pkg.dev --quiet
sudo docker start paper-1b >/dev/null 2>&1 || sudo docker run --detach --name paper-1b \
  --privileged --net=host --volume ~/llasa:/bucket \
  --env 'LIBTPU_INIT_ARGS=--xla_tpu_scoped_vmem_limit_kib=98304 --xla_tpu_enable_sparse_core_collective_offload_all_gather=true --xla_tpu_enable_sparse_core_collective_offload_reduce_scatter=true --xla_tpu_enable_sparse_core_collective_offload_all_reduce=true --xla_tpu_use_tc_device_shape_on_sc=true --xla_sc_disable_megacore_partitioning=true --xla_sc_enable_instruction_fusion=false --xla_sc_disjoint_spmem=false --xla_tpu_enable_async_collective_fusion_fuse_all_gather=false --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=false --xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter=false --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true' \
  us-docker.pkg.dev/my-project/llasa/llasa:1 llasa train llasa_1b --tokens gs://my-bucket/tokens --model /bucket/model --out /bucket/runs/paper-1b --set train.checkpoints=gs://my-bucket/runs/paper-1b/checkpoints --set train.mesh.data=1 --set train.mesh.fsdp=-1
sudo docker logs --follow paper-1b 2>&1 | sed -u "s/^/$(hostname): /"
status="$(sudo docker wait paper-1b)"
case "$(hostname)" in *-w-0) gcloud storage rsync --recursive ~/llasa gs://my-bucket ;; esac
echo "llasa ended with $status"
exit "$status"
EOF
)"
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
gcloud compute tpus queued-resources ssh paper-1b --project my-project --zone us-east5-b --node=all --worker=all --command="$worker" | tee "$said"
[ "$(grep -c 'llasa ended with 0$' "$said")" -eq 4 ]
