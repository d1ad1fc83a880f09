// Inspects images by a detector that `fastad export --format openvino` wrote. C++17, OpenVINO.
//
//   OV=$(python -c "import openvino, os; print(os.path.dirname(openvino.__file__))")
//   g++ -std=c++17 -O2 openvino.cpp -I$OV/include $OV/libs/libopenvino.so.* -o inspect
//   LD_LIBRARY_PATH=$OV/libs ./inspect bottle.xml image.ppm ...
#include <algorithm>
#include <openvino/openvino.hpp>

#include "inspect.h"

class Detector {
 public:
  explicit Detector(const std::string& path) {
    ov::Core core;
    auto model = core.read_model(path);
    if (!model->has_rt_info("fastad")) throw std::runtime_error(path + " is no detector of fastad");
    threshold_ = number_in(model->get_rt_info<std::string>("fastad"), "threshold");
    // Otherwise processors with bfloat16 units compute in it, and the threshold does not fit.
    auto network =
        core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32));
    request_ = network.create_infer_request();
  }

  double threshold() const { return threshold_; }

  Result inspect(Image& image) {
    // The graph resizes and normalises: it takes the camera's bytes, of any size.
    const ov::Shape shape{1, image.height, image.width, 3};
    request_.set_tensor("images", ov::Tensor(ov::element::u8, shape, image.pixels.data()));
    request_.infer();
    const ov::Tensor map = request_.get_tensor("anomaly_map");  // (1, h, w) at the detector's size
    const float* values = map.data<float>();
    return {request_.get_tensor("score").data<float>()[0],
            *std::max_element(values, values + map.get_size())};
  }

 private:
  ov::InferRequest request_;
  double threshold_ = 0;
};

int main(int count, char** words) { return inspect_images<Detector>(count, words); }
