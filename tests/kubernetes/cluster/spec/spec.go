// Package spec is what the kubelet and the program that becomes a container agree on.
package spec

// Container is what the kubelet decides about one container. Its JSON is handed over in a file.
type Container struct {
	// NetworkNamespace is the file of the pod's network namespace.
	NetworkNamespace string
	Hostname         string
	// Image is the folder of the image's root file system. It is never written to: Scratch holds what changes.
	Image string
	// Scratch is an empty folder of this container: upper layer, working folder and mount point of its root.
	Scratch      string
	ReadOnlyRoot bool
	Mounts       []Mount
	// Args is the program, looked up in the PATH of Env inside the root, and its arguments.
	Args []string
	Env  []string
	Dir  string

	User, Group int
	Groups      []int
	// Capabilities that stay in the bounding set, such as CHOWN.
	Capabilities    []string
	NoNewPrivileges bool
	// OpenFilesMax is the limit of file descriptors, soft and hard.
	OpenFilesMax uint64
}

// Mount is a folder or file of the node that appears inside.
type Mount struct {
	Source   string
	Target   string
	ReadOnly bool
}
