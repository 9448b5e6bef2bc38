# launch/pod.sh gke run codec xcodec2 --topology v5e:2x4 --flags --set train.batch=8
state() { kubectl --context gke_my-project_us-east5-b_pods get jobset codec --ignore-not-found -o jsonpath='{.status.terminalState}'; }
[ -z "$(state)" ] || kubectl --context gke_my-project_us-east5-b_pods delete jobset codec
kubectl --context gke_my-project_us-east5-b_pods apply -f - <<'EOF'
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: codec
  labels:
    app: llasa
    kueue.x-k8s.io/queue-name: llasa
  annotations:
    # One slice, one node pool: its hosts are neighbours.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  ttlSecondsAfterFinished: 604800
  failurePolicy:
    maxRestarts: 50
    rules:
      # 2: refused, one line says why; trying again would not help.
      - name: refused
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
        onJobFailureMessagePatterns: ["exit code 2 "]
      # 75: told to stop, and saved; that is no failure.
      - name: saved
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
        onJobFailureMessagePatterns: ["exit code 75 "]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: 2
          completions: 2
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: llasa
                  operator: In
                  values: [2, 75]
          template:
            metadata:
              labels:
                app: llasa
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              serviceAccountName: llasa
              terminationGracePeriodSeconds: 120
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: tpu-v5-lite-podslice
                cloud.google.com/gke-tpu-topology: 2x4
              containers:
                - name: llasa
                  image: us-docker.pkg.dev/my-project/llasa/llasa:1
                  command: ["llasa", "codec", "train", "xcodec2", "--store", "/bucket/corpus", "--out", "/bucket/runs/codec", "--set", "train.checkpoints=gs://my-bucket/runs/codec/checkpoints", "--set", "train.mesh.data=1", "--set", "train.mesh.fsdp=-1", "--set", "train.batch=8"]
                  env:
                    - name: LIBTPU_INIT_ARGS
                      value: "--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true"
                  ports:
                    - containerPort: 8471
                    - containerPort: 8482
                  resources:
                    requests:
                      google.com/tpu: 4
                    limits:
                      google.com/tpu: 4
                  volumeMounts:
                    - name: bucket
                      mountPath: /bucket
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: my-bucket
                      mountOptions: implicit-dirs
EOF
kubectl --context gke_my-project_us-east5-b_pods wait jobset/codec --for=jsonpath='{.status.terminalState}' --timeout=-1s
echo "codec: $(state)" >&2
[ "$(state)" = Completed ]
