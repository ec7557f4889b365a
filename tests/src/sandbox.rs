//! A Kubernetes namespace for one case, and users with exactly the permissions that it wants.
//!
//! Cases run side by side on one cluster, so each makes its objects in a namespace of its own, which goes with the
//! value: a case that panics leaves nothing behind either.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::pki::Authority;
use crate::{Error, Target, run};

/// A namespace that is deleted on drop.
#[derive(Debug)]
pub struct Sandbox {
    target: Target,
    namespace: String,
}

/// Permissions: API group ("" is the core), resource, verbs.
pub type Rule<'a> = (&'a str, &'a str, &'a [&'a str]);

impl Sandbox {
    /// Makes a namespace whose name starts with `tp-` and `case` (lower case, digits, hyphens).
    pub fn create(target: &Target, case: &str) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("tp-{case}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run::output(target.kubectl().args(["create", "namespace", &namespace]))?;
        let sandbox = Self { target: target.clone(), namespace };
        // Pods are refused until the controller manager has made the namespace's account.
        let account = ["wait", "--for=create", "serviceaccount/default", "--timeout=30s"];
        run::output(sandbox.kubectl().args(account))?;
        Ok(sandbox)
    }

    /// Its name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `kubectl` in this namespace, with the rights to set a case up.
    pub fn kubectl(&self) -> Command {
        let mut command = self.target.kubectl();
        command.args(["-n", &self.namespace]);
        command
    }

    /// Applies YAML; objects that name no namespace land in this one.
    pub fn apply(&self, yaml: &str) -> Result<(), Error> {
        run::with_input(self.kubectl().args(["apply", "--server-side", "-f", "-"]), yaml.as_bytes()).map(drop)
    }

    /// Evicts a pod, as a drained node does.
    pub fn evict(&self, pod: &str) -> Result<(), Error> {
        let eviction = serde_json::json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        });
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", self.namespace);
        let create = ["create", "--raw", &path, "-f", "-"];
        run::with_input(self.kubectl().args(create), eviction.to_string().as_bytes()).map(drop)
    }

    /// The kubeconfig of a user who may do in this namespace what the rules say, and nothing else anywhere. It lies
    /// where the laptop's user can read it, and goes with the sandbox.
    pub fn user(&self, name: &str, rules: &[Rule<'_>]) -> Result<PathBuf, Error> {
        let user = format!("{}-{name}", self.namespace);
        let rules: Vec<_> = rules
            .iter()
            .map(|(group, resource, verbs)| serde_json::json!({"apiGroups": [group], "resources": [resource], "verbs": verbs}))
            .collect();
        let role = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": user}, "rules": rules,
        });
        self.apply(&role.to_string())?;
        self.bound(name, "Role", &user)
    }

    /// As [`Self::user`], for one who may do in this namespace what a cluster role of Kubernetes' own says.
    pub fn user_with(&self, name: &str, cluster_role: &str) -> Result<PathBuf, Error> {
        self.bound(name, "ClusterRole", cluster_role)
    }

    fn bound(&self, name: &str, kind: &str, role: &str) -> Result<PathBuf, Error> {
        let Target::Laptop(cluster, laptop) = &self.target else {
            self.target.laptop("a user with few permissions")?;
            return Err(Error::NotUp { why: "no certificate authority".to_owned() });
        };
        let user = format!("{}-{name}", self.namespace);
        let binding = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        self.apply(&binding.to_string())?;
        let authority = Authority::load(&cluster.layout().run("pki"))?;
        let kubeconfig = authority.kubeconfig(&authority.issue(&user, "", &[])?, &self.namespace);
        let folder = laptop.home().join(&self.namespace);
        run::folder(&folder)?;
        let path = folder.join(format!("{name}.kubeconfig"));
        run::write(&path, kubeconfig)?;
        Ok(path)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let delete = ["delete", "namespace", &self.namespace, "--wait=false"];
        if let Err(error) = run::output(self.target.kubectl().args(delete)) {
            eprintln!("the namespace {} stays: {error}", self.namespace);
        }
        if let Target::Laptop(_, laptop) = &self.target {
            // Not there unless the case made users.
            let _ = std::fs::remove_dir_all(laptop.home().join(&self.namespace));
        }
    }
}
