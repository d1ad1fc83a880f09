// Inspects images by a detector that `fastad export --format onnx` wrote. C++17, ONNX Runtime.
//
//   g++ -std=c++17 -O2 onnxruntime.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o inspect
//   LD_LIBRARY_PATH=$ORT/lib ./inspect bottle.onnx image.ppm ...
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>

#include "inspect.h"

class Detector {
 public:
  explicit Detector(const char* path) : session_(env_, path, Ort::SessionOptions{}) {
    Ort::AllocatorWithDefaultOptions allocator;
    auto facts = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("fastad", allocator);
    if (!facts) throw std::runtime_error(std::string(path) + " is no detector of fastad");
    threshold_ = number_in(facts.get(), "threshold");
  }

  double threshold() const { return threshold_; }

  Result inspect(Image& image) {
    // The graph resizes and normalises: it takes the camera's bytes, of any size.
    const std::array<int64_t, 4> shape{1, static_cast<int64_t>(image.height),
                                       static_cast<int64_t>(image.width), 3};
    Ort::Value input = Ort::Value::CreateTensor<uint8_t>(
        memory_, image.pixels.data(), image.pixels.size(), shape.data(), shape.size());
    const char* inputs[] = {"images"};
    const char* outputs[] = {"score", "anomaly_map"};
    auto found = session_.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 2);
    const float* map = found[1].GetTensorData<float>();  // (1, h, w) at the detector's size
    const size_t count = found[1].GetTensorTypeAndShapeInfo().GetElementCount();
    return {found[0].GetTensorData<float>()[0], *std::max_element(map, map + count)};
  }

 private:
  Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "fastad"};
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Session session_;
  double threshold_ = 0;
};

int main(int count, char** words) { return inspect_images<Detector>(count, words); }
