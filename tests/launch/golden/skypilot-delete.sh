# launch/pod.sh skypilot delete paper-1b
sky jobs cancel --yes --name paper-1b
