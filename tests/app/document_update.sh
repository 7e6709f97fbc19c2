# 将新版本模型复制到模型仓库目录
cp -r new_model_dir /models/mnist 

# 修改模型配置文件
echo "model_config_list {
  config {
    name: 'mnist'
    base_path: '/models/mnist'
    model_platform: 'tensorflow'
    model_version_policy {
      specific {
        versions: 1
        versions: 2
      }
    }
  }
}" > /models/mnist/mnist_config.txt

# 重新加载模型配置
curl -X POST http://localhost:8501/v1/models/mnist/versions/2/reload
