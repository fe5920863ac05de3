# What a Ray cluster on AWS needs: a network, a bucket, a registry, and roles that may do no more than they must.

module "network" {
  source = "./modules/network"

  name      = var.name
  cidr      = var.cidr
  zones     = split(",", var.zones)
  ssh_cidrs = var.ssh_cidrs
}

module "storage" {
  source = "./modules/storage"

  name          = var.name
  cache_days    = var.cache_days
  force_destroy = var.force_destroy
}

module "registry" {
  source = "./modules/registry"

  name          = var.name
  force_destroy = var.force_destroy
}

module "kubernetes" {
  source = "./modules/kubernetes"
  count  = var.enable_kubernetes ? 1 : 0

  name        = var.name
  subnets     = module.network.subnets
  admin_cidrs = var.admin_cidrs
  release     = var.kubernetes_version
  addons      = var.kubernetes_addons
}

module "identity" {
  source = "./modules/identity"

  name               = var.name
  bucket_arn         = module.storage.bucket_arn
  key_arn            = module.storage.key_arn
  repository_arn     = module.registry.arn
  subnet_arns        = module.network.subnet_arns
  security_group_arn = module.network.security_group_arn
  oidc               = one(module.kubernetes[*].oidc)
}
