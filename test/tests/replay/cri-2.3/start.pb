
@075080c8f21ab8269d6d6cf0ec018445728e1416fed49c6df616f7382fdbeae5k8s.ioüÿÿÿÿÿÿÿÿ"2.3.4*/tmp/pwbKrQcZ/c.sock.ttrpc2/tmp/pwbKrQcZ/c.sock:%/tmp/record/2.3/containerd/containerdJ/run/containerd/s