# launch/pod.sh gcluster delete paper-1b
gcluster job cancel paper-1b --project my-project --location us-east5-b --cluster pods
