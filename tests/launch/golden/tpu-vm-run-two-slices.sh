# launch/pod.sh tpu-vm run codec xcodec2 --topology v5e:4x4 --slices 2 --spot
state() { gcloud compute tpus queued-resources describe codec --project my-project --zone us-east5-b --format='value(state.state)' 2>/dev/null || true; }
case "$(state)" in
FAILED | SUSPENDED) gcloud compute tpus queued-resources delete codec --project my-project --zone us-east5-b --force --quiet ;;
esac
[ -n "$(state)" ] || gcloud compute tpus queued-resources create codec --project my-project --zone us-east5-b \
  --node-count 2 --node-prefix codec \
  --accelerator-type v5litepod-16 --runtime-version v2-alpha-tpuv5-lite --spot
until [ "$(state)" = ACTIVE ]; do
  case "$(state)" in FAILED | SUSPENDED) exit 1 ;; esac
  sleep 30
done
# On every host: files are copied down, the container runs (or goes on), worker 0 copies up.
worker="$(cat <<'EOF'
set -eu
for folder in corpus runs/codec; do
  mkdir -p ~/llasa/$folder
  gcloud storage rsync --recursive --exclude='checkpoints/.*' gs://my-bucket/$folder ~/llasa/$folder || true
done
gcloud auth configure-docker us-docker.pkg.dev --quiet
sudo docker start codec >/dev/null 2>&1 || sudo docker run --detach --name codec \
  --privileged --net=host --volume ~/llasa:/bucket \
  us-docker.pkg.dev/my-project/llasa/llasa:1 llasa codec train xcodec2 --store /bucket/corpus --out /bucket/runs/codec --set train.checkpoints=gs://my-bucket/runs/codec/checkpoints --set train.mesh.data=2 --set train.mesh.fsdp=-1
sudo docker logs --follow codec 2>&1 | sed -u "s/^/$(hostname): /"
status="$(sudo docker wait codec)"
case "$(hostname)" in *-w-0) gcloud storage rsync --recursive ~/llasa gs://my-bucket ;; esac
echo "llasa ended with $status"
exit "$status"
EOF
)"
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
gcloud compute tpus queued-resources ssh codec --project my-project --zone us-east5-b --node=all --worker=all --command="$worker" | tee "$said"
[ "$(grep -c 'llasa ended with 0$' "$said")" -eq 8 ]
