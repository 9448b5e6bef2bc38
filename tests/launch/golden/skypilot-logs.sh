# launch/pod.sh skypilot logs paper-1b
sky jobs logs --name paper-1b
