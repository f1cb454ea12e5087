
lifereplay"2.3.4*/tmp/record/2.3/c.sock.ttrpc2/tmp/record/2.3/c.sock:%/tmp/record/2.3/containerd/containerdJ/run/containerd/s