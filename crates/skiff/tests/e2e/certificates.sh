# The certificates and kubeconfigs of a cluster, made with openssl as an administrator would: nothing here is Skiff's.
#   sh certificates.sh FOLDER cluster ADDRESS SERVICE_ADDRESS   those of the control plane
#   sh certificates.sh FOLDER node NAME ADDRESS SERVER          those of a node, which finds its server at that address
set -eu
folder=$1 what=$2
mkdir -p "$folder"
cd "$folder"

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null; }

sign() { # sign NAME SUBJECT EXTENSIONS
  key "$1"
  printf '%s\n' "$3" >"$1.ext"
  openssl req -new -key "$1.key" -subj "$2" 2>/dev/null |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
}
server() { sign "$1" "$2" "extendedKeyUsage=serverAuth
subjectAltName=$3"; }
client() { # client NAME SUBJECT SERVER
  sign "$1" "$2" extendedKeyUsage=clientAuth
  cat >"$1.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$3:6443", certificate-authority: $folder/ca.crt}}]
users: [{name: $1, user: {client-certificate: $folder/$1.crt, client-key: $folder/$1.key}}]
contexts: [{name: test, context: {cluster: test, user: $1}}]
current-context: test
END
}

if [ "$what" = node ]; then
  name=$3 address=$4 server=$5
  server "$name-serving" "/O=system:nodes/CN=system:node:$name" "DNS:$name,IP:$address"
  client "$name" "/O=system:nodes/CN=system:node:$name" "$server"
  exit
fi

address=$3 service=$4
key ca
openssl req -x509 -new -key ca.key -days 30 -subj /CN=test-ca -out ca.crt 2>/dev/null
key sa
server apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$address,IP:$service"
client kubelet-client /CN=kube-apiserver-kubelet-client 127.0.0.1
client admin /O=system:masters/CN=kubernetes-admin 127.0.0.1
client scheduler /CN=system:kube-scheduler 127.0.0.1
client controller-manager /CN=system:kube-controller-manager 127.0.0.1
client cloud-controller-manager /CN=system:cloud-controller-manager 127.0.0.1
client kube-proxy /CN=system:kube-proxy "$address"
client announcer /CN=skiff:announcer "$address"
