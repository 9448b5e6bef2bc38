# launch/pod.sh gke run paper-8b llasa_8b --topology tpu7x:4x4x4
state() { kubectl --context gke_my-project_us-east5-b_pods get jobset paper-8b --ignore-not-found -o jsonpath='{.status.terminalState}'; }
[ -z "$(state)" ] || kubectl --context gke_my-project_us-east5-b_pods delete jobset paper-8b
kubectl --context gke_my-project_us-east5-b_pods apply -f - <<'EOF'
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: paper-8b
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
          parallelism: 16
          completions: 16
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
                cloud.google.com/gke-tpu-accelerator: tpu7x
                cloud.google.com/gke-tpu-topology: 4x4x4
              containers:
                - name: llasa
                  image: us-docker.pkg.dev/my-project/llasa/llasa:1
                  command: ["llasa", "train", "llasa_8b", "--tokens", "gs://my-bucket/tokens", "--model", "/bucket/model", "--out", "/bucket/runs/paper-8b", "--set", "train.checkpoints=gs://my-bucket/runs/paper-8b/checkpoints", "--set", "train.mesh.data=1", "--set", "train.mesh.fsdp=-1"]
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
kubectl --context gke_my-project_us-east5-b_pods wait jobset/paper-8b --for=jsonpath='{.status.terminalState}' --timeout=-1s
echo "paper-8b: $(state)" >&2
[ "$(state)" = Completed ]
