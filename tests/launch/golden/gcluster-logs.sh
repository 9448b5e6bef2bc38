# launch/pod.sh gcluster logs paper-1b
gcluster job logs paper-1b --project my-project --location us-east5-b --cluster pods --follow
