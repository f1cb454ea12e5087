
lifereplay"2.4.0-beta.0*/tmp/record/2.4/c.sock.ttrpc2/tmp/record/2.4/c.sock:%/tmp/record/2.4/containerd/containerdJ/run/containerd/s