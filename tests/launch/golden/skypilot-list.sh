# launch/pod.sh skypilot list
sky jobs queue
