# launch/pod.sh gcluster list
gcluster job list --project my-project --location us-east5-b --cluster pods
