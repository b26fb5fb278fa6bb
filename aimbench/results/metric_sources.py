"""BibTeX of what a record's metrics and attributions come from."""

EPG = """@inproceedings{wang2020score,
  title     = {Score-{CAM}: Score-Weighted Visual Explanations for Convolutional Neural Networks},
  author    = {Wang, Haofan and Wang, Zifan and Du, Mengnan and Yang, Fan and Zhang, Zijian and Ding, Sirui and
               Mardziel, Piotr and Hu, Xia},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2020}
}"""
"""Of the Energy Pointing Game."""

ATTRIBUTIONS = {
    "gradcam": """@inproceedings{selvaraju2017grad,
  title     = {Grad-{CAM}: Visual Explanations from Deep Networks via Gradient-Based Localization},
  author    = {Selvaraju, Ramprasaath R. and Cogswell, Michael and Das, Abhishek and Vedantam, Ramakrishna and
               Parikh, Devi and Batra, Dhruv},
  booktitle = {IEEE International Conference on Computer Vision},
  year      = {2017}
}""",
    "gradcam_plus_plus": """@inproceedings{chattopadhay2018grad,
  title     = {Grad-{CAM}++: Generalized Gradient-Based Visual Explanations for Deep Convolutional Networks},
  author    = {Chattopadhay, Aditya and Sarkar, Anirban and Howlader, Prantik and Balasubramanian, Vineeth N.},
  booktitle = {IEEE Winter Conference on Applications of Computer Vision},
  year      = {2018}
}""",
    "input_x_gradient": """@article{shrikumar2016not,
  title   = {Not Just a Black Box: Learning Important Features Through Propagating Activation Differences},
  author  = {Shrikumar, Avanti and Greenside, Peyton and Shcherbina, Anna and Kundaje, Anshul},
  journal = {arXiv:1605.01713},
  year    = {2016}
}""",
    "integrated_gradients": """@inproceedings{sundararajan2017axiomatic,
  title     = {Axiomatic Attribution for Deep Networks},
  author    = {Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi},
  booktitle = {International Conference on Machine Learning},
  year      = {2017}
}""",
    "smoothgrad": """@article{smilkov2017smoothgrad,
  title   = {{SmoothGrad}: Removing Noise by Adding Noise},
  author  = {Smilkov, Daniel and Thorat, Nikhil and Kim, Been and Vi{\\'e}gas, Fernanda and Wattenberg, Martin},
  journal = {arXiv:1706.03825},
  year    = {2017}
}""",
    "attention_rollout": """@inproceedings{abnar2020quantifying,
  title     = {Quantifying Attention Flow in Transformers},
  author    = {Abnar, Samira and Zuidema, Willem},
  booktitle = {Annual Meeting of the Association for Computational Linguistics},
  year      = {2020}
}""",
}
"""By the name that a record gives them."""
